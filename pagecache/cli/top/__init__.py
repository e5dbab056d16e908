"""`pagecache top`: the work of running caches, live in a terminal, or once as tables or JSON.

command.py    options, help and exit status
figures.py    the documents of sockets -> one document with rates
screen.py     that document -> tables and lines; the live view by `rich.live`
"""
