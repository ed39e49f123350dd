"""The dashboard: pages for recruiters, interviewers, candidates and administrators.

`desk` is how a page is declared and who may see it, `gate` who is signed in, `rooms` puts the pages into
the application. Pages are HTML that reads without a script; a script adds live progress and dropping files.
"""
