"""`pagecache top`: what caches are doing, live in a terminal, or once as a table or JSON.

    command.py    options, help and exit status
    text.py       figures and names as a terminal may show them
    rates.py      two documents -> rates, hit rate, latency of the time between
    states.py     letters and colours of the states; bars
    rows.py       documents -> rows of caches, volumes and files
    columns.py    rows -> cells
    panels.py     caches, latency, queue, waits and errors as lines of text
    folio_map.py  one file's runs -> a map of letters
    look.py       one look at a socket; a thread that looks again and again
    once.py       `--once`
    model.py      what the live view shows, and what it asks for
    app.py, map_screen.py, help_screen.py, table.py     the live view itself (textual)

Everything but the last line works without textual and without a terminal.
"""
