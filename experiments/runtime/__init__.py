"""From a command line to a finished, resumable run."""
