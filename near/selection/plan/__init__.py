"""Several stages in each round: filters, a mix, a draw, an order, weights (docs/plans.md)."""
