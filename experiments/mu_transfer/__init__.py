"""Does a narrow network's best rate serve a wide one?"""
