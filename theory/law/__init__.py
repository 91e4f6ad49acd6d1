"""The theory: what each fact exerts and needs, how attention and salience move over time, and what that predicts."""
