"""What needs training, evaluation and analysis together: the nano models, and reports that show imagined frames."""
