"""Who is normal: findings as numbers, groups of people, the rules, and how firm the answer is."""
