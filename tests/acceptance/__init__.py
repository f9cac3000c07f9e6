"""Tests that run waqueue as its users do: real processes, killed where it hurts."""
