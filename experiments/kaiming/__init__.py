"""Why half the variance, and why not average for ReLU?"""
