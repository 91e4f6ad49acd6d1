r"""The toy transformer of the factual-salience proof, simulated.

One attention layer reads a question as three tokens: a subject, a relation, and the question template's last word, from
which the answer is predicted. Pretraining writes each fact into its subject's *value*: the entry at the right answer is
the fact's *salience*, and popular subjects gain it first. Finetuning teaches a new question format by moving attention.
Facts with little salience gain nothing from attention to their subject, so training on them moves attention to the
tokens every question shares, for all subjects at once. Held-out facts that the model had stored are then answered with
the relation's generic answer.

The model, the salience and the claim are those of Ghosal, Hashimoto and Raghunathan (ICML 2024, arXiv 2406.14785). The
statements R1 to R9 in `theory.law.theorem` and `theory.law.flow` are our own derivations from them.

Symbols of the paper and the names used here:

    φ(x)                  embedding of token x            `embeddings.Embeddings`
    W_V, W_KQ, W_U        the dense parameters            `dense.Parameters.value`, `.attention`, `Embeddings.output`
    v_x = W_U W_V φ(x)    the value of token x            `Weights.subject_values`, …; rows of `table.Values`
    z, α                  attention logits, attention     `Weights.subject_logit`, …; columns `*_attention`
    S(s, r, a) = v_s[a]   factual salience                column `salience`
    t = α_s / (α_s+α_r)   the subject's share             column `subject_share`
"""
