"""The science: arrays and tables in, arrays and tables out. No ray, no mlflow, no paths."""
