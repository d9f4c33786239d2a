"""Watching: what moves in clips gets tracks and names. run() is what --video, --fastMCD and --multi_fastMCD do."""
from util.spec import Network


def run(args, network: Network):
    """Return what was named for `args` (see util.cli), once it is printed and written.

    A naming.Predictions for a directory of the detector's results, a pipeline.Summary for a clip, the rows of a table for many clips.
    """
    from util.watch import batch, naming, pipeline  # here, since each brings much that the others do not need

    if args.video and (clips := batch.find_clips(args.video, args.save)):
        return batch.run_clips(args, clips)
    right = network.spec.right(network.spec.classes[args.label]) if args.label is not None else ()
    return pipeline.watch_clip(args, network, right) if args.video else naming.name_directory(args, network, right)
