"""The admin: one file per group of pages.

    site        the site itself, and its front page
    overview    what the front page says: healthy or not, and what needs a person
    base        what all pages share: permissions, read-only by default, empty states
    lists       lists that never count, and their filters
    acts        show what will happen, ask, check again, act: every button goes through it
    words       states, ages and phones as people read them
    pages       registers every page; a new group of pages is a file and a line there
    groups      Viewer, Operator, Administrator

`pages` is imported by `SessionsAppConfig.ready()` and not here: the site itself lives in this package, and importing it
must not register anything on it.
"""
