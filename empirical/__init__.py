"""The language-model flow: the experiment on a transformer, pretrained here or published."""
