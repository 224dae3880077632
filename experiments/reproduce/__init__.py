"""Does it all agree with the papers?"""
