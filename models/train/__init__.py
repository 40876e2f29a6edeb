"""How the weights in models/weights/ were made: `python -m models.train.gpt_small`, `python -m models.train.vit_small`."""
