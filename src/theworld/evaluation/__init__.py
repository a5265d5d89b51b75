"""A checkpoint to predictions, to scores, to a report: does the world help, and by what evidence?"""
