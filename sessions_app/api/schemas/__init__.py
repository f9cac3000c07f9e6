"""What goes in and what comes out, as types. Their descriptions and examples are the API's document."""
