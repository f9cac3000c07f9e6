"""The only rooms that know a WhatsApp engine. One file per engine, one contract in `base`, one line in `registry`."""
