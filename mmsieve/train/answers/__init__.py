"""Training of models that answer: raters of instruction samples, enhancers of captions."""
