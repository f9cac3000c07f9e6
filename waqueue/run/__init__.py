"""What `make run` starts: two servers, the web server and a worker in one terminal, and nothing left when it ends.

It imports no Django: what it needs of waqueue it asks for by `manage.py`, like an operator.
"""
