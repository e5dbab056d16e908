"""`pagecache top`: the work of running caches, live in a terminal, or once as a table or JSON.

    command.py    options, help and exit status
    text.py       texts cut to the width of a column
    rates.py      two documents -> rates, hit rate, latency of the time between
    states.py     letters and colours of the states; bars
    rows.py       documents -> rows of caches, volumes and files
    columns.py    rows -> cells
    panels.py     caches, latency, queue, waits and errors as lines of text
    folio_map.py  one file's runs -> a map of letters
    sampling.py   one sample of a socket; a thread that samples at an interval
    once.py       `--once`
    model.py      the state of the live view, and its requests
    app.py, map_screen.py, help_screen.py, table.py     the live view itself (textual)

Everything but the last line works without textual and without a terminal.
"""
