"""What a look at a model directory finds before any long work: a module a subject, each a judgement on cheap stages."""
