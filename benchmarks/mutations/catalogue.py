"""The errors: each breaks one formula, or one stage."""

from benchmarks.mutations.apply import Mutation

THEOREM, FLOW, FORECAST = "theory.law.theorem", "theory.law.flow", "theory.law.forecast"
FACTORED, SPLIT, MEASURE = "theory.model.factored", "core.split", "theory.measure"
TERMS = f"{THEOREM}:_share_force_terms"
SIMULATED = "tests/theory/test_pipeline.py"
CHECKED = "tests/theory/verify/test_checks.py"

LAW = (
    Mutation("force of the wrong sign", f"{THEOREM}:force", "return attention *", "return -attention *"),
    Mutation(
        "force not less the average token's",
        f"{THEOREM}:force",
        "advantage - np.sum(attention * advantage, axis=1, keepdims=True)",
        "advantage",
    ),
    Mutation("slope of the threshold", TERMS, "s * (1 - s + r)", "s * (1 - s - r)"),
    Mutation(
        "competitors' mean not weighted",
        TERMS,
        "np.exp(logits - log_mass[:, None])",
        "np.full_like(logits, 1 / logits.shape[1])",
    ),
    Mutation("template's term of the wrong sign", TERMS, "(s - r) * q * w", "(r - s) * q * w"),
    Mutation("relation's term with shares swapped", TERMS, "r * (1 + s - r) * w", "r * (1 - s + r) * w"),
    Mutation(
        "share force without attention to the subject",
        f"{THEOREM}:share_force_at",
        "attention[:, [SUBJECT]] * salience",
        "salience",
    ),
    Mutation("threshold not divided by its slope", f"{THEOREM}:salience_threshold", "intercept / slope", "intercept"),
    Mutation("peak of the share force", f"{THEOREM}:salience_peak", "(1 + special", "(0 + special"),
    Mutation(
        "transfer without the same relation",
        f"{THEOREM}:transfer",
        "+ (1 - rho) * of_relation[held_out_relation]",
        "",
    ),
    Mutation(
        "transfer to all of the subject", f"{THEOREM}:transfer", "rate * rho * mean[SUBJECT]", "rate * mean[SUBJECT]"
    ),
    Mutation("transfer by relations' own means", f"{THEOREM}:transfer", "/ len(force)", "/ np.bincount(relation)"),
    Mutation(
        "transfer without the softmax's mean",
        f"{THEOREM}:transfer",
        "(change - np.sum(attention * change, axis=1, keepdims=True))",
        "(change - change.mean(axis=1, keepdims=True))",
    ),
    Mutation(
        "interval without the template",
        f"{THEOREM}:_critical",
        "margin[:, SUBJECT] + template * margin[:, TEMPLATE]",
        "margin[:, SUBJECT]",
    ),
    Mutation(
        "answer as its own competitor",
        f"{THEOREM}:_critical",
        "answer[:, None], 1.0, axis=1",
        "answer[:, None], 0.0, axis=1",
    ),
    Mutation("gap as a sum", f"{THEOREM}:gap_by_fact", "- recalled(share_b", "+ recalled(share_b"),
    Mutation("net crossing as a sum", f"{THEOREM}:net_crossing", "(gained - lost)", "(gained + lost)"),
    Mutation(
        "competitors not pushed down",
        f"{THEOREM}:growth",
        "of_all - np.log1p(attention * frequency[chosen] * GROWTH)",
        "attention * (1 - frequency[chosen]) * GROWTH",
    ),
    Mutation("reduced flow at .7 speed", f"{FLOW}:reduced_flow", "speed * _mean_force", "0.7 * speed * _mean_force"),
    Mutation(
        "held-out flow at .7 speed", f"{FLOW}:held_out_flow", "return np.concatenate", "return 0.7 * np.concatenate"
    ),
    Mutation("held-out flow without the same relation", f"{FLOW}:held_out_flow", "+ (1 - rho) * force[:, 1]", ""),
    Mutation(
        "held-out flow's template at ρ", f"{FLOW}:held_out_flow", "subject, template]", "subject, rho * template]"
    ),
    Mutation(
        "held-out flow's relations not weighted", f"{FLOW}:held_out_flow", "motion(weight[:, None] * np", "motion(np"
    ),
    Mutation("outputs of one class counted once", f"{FLOW}:_mean_force", "odds *= n_outputs", "pass"),
    Mutation("mean force at 1 − t", f"{FLOW}:mean_force", "[t, 1 - t, 0.0]", "[1 - t, t, 0.0]"),
    Mutation(
        "salience growth without saturation",
        f"{FLOW}:salience_growth",
        "(c - special.wrightomega(c - np.log(competitors))) / attention",
        "exposure + 0 * c",
    ),
    Mutation(
        "exposure without attention",
        "theory.law.predict:exposure_of",
        "rate * PRETRAINING_ATTENTION * draws",
        "rate * draws",
    ),
    Mutation(
        "the subject's other answers left in",
        "theory.law.reversal:without_other_answers",
        "np.nanmedian(of_subject, axis=1)[:, None]",
        "values[:, theorem.SUBJECT]",
    ),
    Mutation("batched flow without the same relation", f"{FORECAST}:_velocity", "+ (1 - rho) * force[:, 1]", ""),
    Mutation("batched flow counts filler once", f"{FORECAST}:_probability", " + arm.log_count", ""),
    Mutation(
        "batched flow's template of the wrong sign", f"{FORECAST}:_advantage", "- expected @ arm", "+ expected @ arm"
    ),
)
"""Errors of the theory."""

STAGES = (
    Mutation(
        "reversal where the lead rises",
        "core.closed_form:boundary",
        "(before > 0) & (after <= 0)",
        "(before <= 0) & (after > 0)",
        "tests/theory/law/test_flow.py",
    ),
    Mutation(
        "own logit of a subject does not move",
        f"{FACTORED}:_add_logits",
        "add(rate.subject * subject)",
        "add(0 * subject)",
    ),
    Mutation(
        "attention against its gradient", f"{FACTORED}:question_step", "force * (rate / len", "-force * (rate / len"
    ),
    Mutation(
        "values learnt at the dense rate", f"{FACTORED}:_add_values", "own = 1 - constants.shared_share", "own = 1"
    ),
    Mutation("filler counted once", f"{FACTORED}:loss_and_residual", "n_filler * filler", "filler"),
    Mutation("filler's value left out", f"{FACTORED}:with_filler", "rows + filler", "rows"),
    Mutation("pretraining at full attention", f"{FACTORED}:fact_logits", "0.5 * (_rows", "1.0 * (_rows"),
    Mutation(
        "template followed by nothing", f"{FACTORED}:template_value", "= config.template_strength", "= 0", CHECKED
    ),
    Mutation("ties count in training", f"{FACTORED}:recalled", "[:, 0] > best", "[:, 0] >= best"),
    Mutation(
        "template learnt at ρ",
        "theory.model.traced:rates",
        "own, own, 1.0, 0.0",
        "own, own, common, 0.0",
        "tests/theory/model/test_factored.py",
    ),
    Mutation(
        "finetuning at a tenth of its rate",
        "theory.finetune:rates",
        "number(config.learning_rate",
        "number(0.1 * config.learning_rate",
    ),
    Mutation(
        "pretraining at half its rate",
        "theory.inputs:world",
        "np.asarray(config.pretrain.learning_rate",
        "np.asarray(0.5 * config.pretrain.learning_rate",
        CHECKED,
    ),
    Mutation(
        "answers shifted",
        "theory.inputs:world",
        "store.relation, store.answer)",
        "store.relation, np.roll(store.answer, 1))",
        SIMULATED,
    ),
    Mutation(
        "uniform sampling in pretraining",
        "theory.inputs:world",
        "alias_table(store.exposure)",
        "alias_table(np.ones_like(store.exposure))",
        SIMULATED,
    ),
    Mutation("alias where the cell is kept", "theory.engine.sampling:draw", "where(is_kept,", "where(~is_kept,"),
    Mutation("top and bottom swapped", f"{SPLIT}:_halve", "argsort(-knownness", "argsort(knownness"),
    Mutation("halves not within relation", f"{SPLIT}:groups", "relation if config.within_relation else ", ""),
    Mutation(
        "held-out facts trained on",
        f"{SPLIT}:arms",
        "np.flatnonzero(drawn.role == TRAIN)",
        "np.flatnonzero(drawn.role != BACKGROUND)",
    ),
    Mutation(
        "random half the first half",
        f"{SPLIT}:_halve",
        "grouped(rng.permutation(len(group)))",
        "grouped(np.arange(len(group)))",
    ),
    Mutation(
        "the least known called known",
        "theory.pipeline:_prepare",
        "known = store.popularity",
        "known = -store.popularity",
    ),
    Mutation(
        "mass of the background lost",
        "core.facts.store:add_background",
        '"exposure": store.exposure * (1 - background.share)',
        '"exposure": store.exposure',
        "tests/theory/test_facts.py",
    ),
    Mutation("ties count as recalled", "theory.evaluate:answer_read", "right > output.max", "right >= output.max"),
    Mutation(
        "salience read at the relation", "theory.evaluate:answer_read", "[fact, 0, answers]", "[fact, 1, answers]"
    ),
    Mutation(
        "attention of the first relation",
        "theory.attention:measure",
        "relation_logit[relation]",
        "relation_logit[0 * relation]",
        "tests/theory/test_evaluate.py",
    ),
    Mutation(
        "share of all attention",
        f"{MEASURE}:metrics_of",
        '(columns["subject_attention"] / both)',
        'columns["subject_attention"]',
    ),
    Mutation("metrics of training facts", f"{MEASURE}:metrics_of", '== "held_out"', '== "train"'),
    Mutation("loss of the wrong sign", f"{MEASURE}:metrics_of", '"loss": -mean', '"loss": mean'),
    Mutation("column of the share force", f"{MEASURE}:share_columns", "theorem.share_force(", "-theorem.share_force("),
    Mutation("interval at another attention", f"{MEASURE}:critical_columns", "attended[:, 2]", "attended[:, 1]"),
)
"""Errors of the stages."""

ALL = LAW + STAGES
BY_NAME = {mutation.name: mutation for mutation in ALL}
