"""Work on datasets that are there: repair, convert, merge, finalize, new layers."""
