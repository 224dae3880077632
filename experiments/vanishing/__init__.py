"""Why do deep sigmoid networks not learn?"""
