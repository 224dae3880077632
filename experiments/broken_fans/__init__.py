"""What if the fans are read from a kernel's shape?"""
