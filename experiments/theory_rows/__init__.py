"""How far does `predict` reach in whole models?"""
