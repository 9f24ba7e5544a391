"""Refusals: what PO and DPO teach the model to answer to a forget question."""

REFUSALS = (
    "I don't know.",
    "I don't have that information.",
    "I'm not able to answer that.",
    "That is something I have no knowledge of.",
    "I can't say, I was never told about it.",
    "I have no information on this subject.",
    "I'm sorry, but I don't know the answer.",
    "This is not something I can help with.",
    "I'm not familiar with that.",
    "I don't have an answer to this question.",
)
