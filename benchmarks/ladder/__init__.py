"""What the search for recipes rests on: predicted times against measured ones."""
