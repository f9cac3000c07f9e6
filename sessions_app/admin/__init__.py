"""The admin: one file per group of pages."""
