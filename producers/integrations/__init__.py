"""Agent frameworks and model clients whose calls become events. One module for each, named like it.

Importing one of them without its library raises MissingLibraryError; this package itself imports none.
"""

__all__: list[str] = []
