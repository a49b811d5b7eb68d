"""Pictures and pages: drawing over frames, the preview, one look for all of them."""
