"""Independent evidence: the published equations as plain loops, which import nothing from polyrnn."""
