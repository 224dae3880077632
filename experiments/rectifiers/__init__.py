"""Do leaky ReLU and ELU fix dying ReLU?"""
