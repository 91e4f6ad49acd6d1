"""The figures, drawn from result files alone: neither JAX nor torch is needed.

`python -m paper_figs` draws those of the results kept here; `--runs DIR` those of any folder that `python -m theory run
… --out DIR` wrote, or `python -m empirical run`. Each figure is a module of its own, found by its name: READS declares
what it reads, `measure` reduces the runs to numbers with intervals, `claim` puts them into the sentence that is the
figure's title, `draw` draws them. A claim's wording follows from the numbers: where an interval holds zero, the title
says so.

Worlds (pretraining seeds) are the unit of every interval: runs of one world are averaged, and differences are paired.
A language model's worlds are its base models, each pretrained on a world of its own.
"""
