"""Decides which hosts outside may be reached, for every connection on an organization's behalf.

`addresses` and `policy` judge names and addresses, pure; `resolver` turns names into addresses, bounded; `configured` reads an
operator's entries, and `fetching` sends requests and gets small documents. A client resolves a name
once, judges each address and connects to one that was judged, by number: a name that is answered differently the next time changes
nothing.
"""
