"""The soak: a whole waqueue under load while a monkey breaks it, and its promises counted at the end."""
