"""The process in which a plug-in fits and scores: apart from the worker, so that neither can harm the other."""
