"""A batch becomes an optimizer step, and everything hears of it. Imports: registry and below; never data, tasks or models."""
