"""What does Xavier balance?"""
