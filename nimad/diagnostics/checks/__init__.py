"""The checks of `nimad doctor`. Each looks at one thing and returns findings with the command that remedies them."""
