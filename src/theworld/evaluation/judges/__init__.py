"""Language models as judges of answers: an additional column of the report, not used by any verdict."""
