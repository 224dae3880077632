"""Does signal flow through 100 layers at birth?"""
