"""Values by name inside a program: where they are, read, replaced, explained.

A *tag* gives a value its name; a *site* is where a name stands; an *edit* puts something else in
the value's place; a *probe* of zeros beside it receives what arrives there on the way back.
"""
