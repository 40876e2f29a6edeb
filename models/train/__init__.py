"""How the weights in models/weights/ were made: `python -m models.train.gpt_small`, `vit_small`, `video_dit_small`."""
