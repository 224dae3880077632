"""Why do residual networks train?"""
