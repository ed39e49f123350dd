"""The columns of the recorder's tables: written inside the sandbox, read outside. Stdlib only."""

CONTEXTS = {"": 0, "train": 1, "validate": 2}

FORWARD_COLUMNS = (
    "call",  # number of the call of train_one_epoch/validate it belongs to, from 1; 0 outside
    "context",  # CONTEXTS: 0 elsewhere, 1 in train_one_epoch, 2 in validate
    "rows",  # batch size
    "graph",  # 1 when the output carries an autograd graph
    "trained",  # 1 when a backward pass reached the output later
    "mode_layers",  # how many Dropout/BatchNorm layers the model has
    "mode_training",  # how many of them were in train mode
    "root_training",  # the outermost module's own flag
    "stats_moved",  # 1 when a BatchNorm layer's running statistics moved during this forward
    "eval_gap",  # max |output - eval-mode output|, nan when not compared
    "model",  # number of the model object
    "autocast",  # 1 under autocast
    "simplex",  # 1 when the output's rows are, up to one factor, non-negative and sum to one
    "serial",  # running number among the outermost forwards
    "batch_gap",  # max |change of an output row when other rows of its batch change|, nan when not compared
)
STEP_COLUMNS = (
    "serial",  # running number of the forward before it
    "lr_min",
    "lr_max",
    "checked",  # 1 when the gradients were compared
    "fresh_norm",  # norm of the gradients of this step's own backward passes
    "stale_norm",  # norm of what was left over from before them
    "fresh_share",  # a in: gradient used = a * fresh + b * stale (least squares)
    "stale_share",  # b
    "misfit",  # relative residual of that fit
    "excess",  # norm of what exceeds the fresh gradient element by element, relative to its norm
    "optimizer",  # number of the optimizer object
    "call",
)
BACKWARD_COLUMNS = (
    "serial",  # running number of the forward whose output the backward pass reached
    "call",
    "moved",  # 1 when the watched parameter has changed since the backward pass before
    "left_over",  # 1 when a parameter still held gradient as this backward pass began; 0.5: but only the last pass's
    "lr_min",  # rates as the backward pass before began, so those of the step in between
    "lr_max",
    "update_rms",  # root mean square of the watched parameter's change since then
    "optimizer",  # number of the optimizer object, -1 where none is known
    "squashed",  # whose cross-entropy it is by its gradient: 1 of softmaxed outputs, -1 of raw ones, 0 no; nan: alike
    "agreement",  # cosine of the gradient used since and the fresh one, of the last bias; nan where not known
    "summed",  # 1 when the gradient used is not the fresh one but the sum of all fresh ones so far; nan as before
    "evenness",  # least over largest change of an element of the watched parameter; nan with fewer than four of them
)
