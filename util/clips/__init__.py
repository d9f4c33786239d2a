"""From a clip or a camera to objects with names: sources, tracks, the files of a run, scores."""
