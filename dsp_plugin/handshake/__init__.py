"""The watch over optimizer steps, by which a method that is spread over its host sees whether it is whole."""
