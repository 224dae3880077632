"""Does `auto_init` train as well as the model's own initialization?"""
