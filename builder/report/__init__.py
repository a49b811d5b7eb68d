"""Pictures and pages: the preview, the report, renders, and the doctor's diagnosis."""
