"""What tests are made of: small worlds, people, spines, models and attackers."""
