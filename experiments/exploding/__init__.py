"""What makes gradients explode?"""
